"""The gate's judge looks on while a policy climbs its reward: who is asked, what was seen, when it
stops, and the report; it knows nothing of how replies are sampled."""
