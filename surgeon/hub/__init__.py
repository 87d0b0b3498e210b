"""Models of the Hugging Face Hub: cut while downloading, so that the whole never has to be here."""
