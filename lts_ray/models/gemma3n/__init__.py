"""Gemma 3n, the one published MatFormer: E2B lies in E4B, half of each layer's neurons and five layers fewer."""
