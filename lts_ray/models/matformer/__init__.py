"""The universal model of the families that transformers has: Llama, Qwen, Mistral, GPT-2, OPT."""
