"""The stages between knowledge and a distilled set: recover images, label them."""
