"""Training of classifiers: labelled images, a recipe, a loop that can be stopped, accuracy."""
