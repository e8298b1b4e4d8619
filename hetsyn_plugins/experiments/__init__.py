"""The paper: its tasks, variants, training, analysis, claims and reports."""
