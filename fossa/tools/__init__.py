"""Names that configs of `ayeaye-fossa` 0.0.37 import; nothing in Fossa uses them."""
