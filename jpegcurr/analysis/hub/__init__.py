"""Runs for the Hugging Face hub: the model card, the folder that is sent, and the sending."""
