"""`chatllama serve`, `export`, `publish`; `feedback` on what was served; Dagster's page, and its
reports."""
