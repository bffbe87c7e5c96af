"""What maps, cards, plots and pages share: colours, the world map, and how a picture is saved."""
