"""Model, mathematics, contract and statistics: no Flower, no network, no site."""
