"""MatFormer's other half: vision transformers whose FFN blocks nest, trained, cut out, compared and searched by."""
