"""The OpenAI API over HTTP: what may be asked, who may ask, which version answers, and how the
answers read; `application` puts it together, `running` starts it."""
