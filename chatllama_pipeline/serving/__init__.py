"""A release and what is done with it: merged folder, model card, chat, scores, server."""
