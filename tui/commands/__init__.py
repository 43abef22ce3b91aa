"""Commands of `rankdeck` that live apart from the others: a module each."""
