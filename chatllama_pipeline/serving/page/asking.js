/* What all pages share: elements, random words, and requests to the page's own server. */
const $ = (id) => document.getElementById(id);
let key = sessionStorage.getItem("key") || "";
const word = () => Array.from(crypto.getRandomValues(new Uint8Array(16)),
  (byte) => byte.toString(16).padStart(2, "0")).join("");

function make(tag, attributes = {}, ...inner) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "click") found.addEventListener("click", value);
    else found.setAttribute(name, value);
  }
  found.append(...inner);
  return found;
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  // A header is bytes: letters beyond ASCII are sent as UTF-8.
  if (key) headers.authorization = "Bearer " + String.fromCharCode(...new TextEncoder().encode(key));
  if (options.body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  if (answer.status === 401) $("key-form").classList.remove("hidden");
  let told = answer.status + " " + answer.statusText;
  try { told = (await answer.json()).error.message; } catch { /* no JSON: the status must do */ }
  throw new Error(told);
}

function tell(error) { $("error").textContent = error ? error.message : ""; }

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem("key", key);
  begin();
});
