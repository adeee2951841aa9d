"""Cross-lingual fine-tuning of language models, measured and tracked."""
