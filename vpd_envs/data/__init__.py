"""Where problems come from: files, the Hugging Face hub, what was made of them."""
