"""Chat templates that Ollama can say."""

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# As Gemma's: no system turn, and the assistant by another name.
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{{ '<turn>' + ('model' if m['role'] == 'assistant' else m['role']) "
    "+ '\\n' + m['content'] | trim + '</turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"
)
# What Go would read as its own, and what ends a text that a Modelfile quotes.
QUOTING = (
    r"""{% for m in messages %}{{ '{{"' + m.role + '\\\\"}}\n' }}"""
    r"""{{ m.content }}{{ '."' + '""\t' }}{% endfor %}"""
    r"""{% if add_generation_prompt %}{{ '{{"assistant\\\\"}}\n' }}{% endif %}"""
)
