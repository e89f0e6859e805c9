"""The finetuning schemes: one file each."""
