"""Signals of one dimension as values from 0 up: sound, genomes, series of numbers."""
