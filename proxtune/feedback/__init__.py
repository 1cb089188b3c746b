"""People's judgements: asked, kept, measured, exported. Never loads torch."""
