"""Evidence: rivals, ablations, reports, timings. Nothing in the product imports it."""
