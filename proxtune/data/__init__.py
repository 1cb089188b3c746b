"""Text in, batches out: files -> formats -> records -> sources -> template (tokenizer) -> loader -> collate."""
