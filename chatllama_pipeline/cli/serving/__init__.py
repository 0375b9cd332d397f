"""`chatllama serve`, `chatllama feedback` on what it served; Dagster's page, and its reports."""
