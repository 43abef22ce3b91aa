"""The Sweep view as lines, and the figures of a sweep as data."""
