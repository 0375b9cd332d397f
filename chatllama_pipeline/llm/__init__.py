"""LLMs that write and judge: who answers, what they are told, what is made of their replies."""
