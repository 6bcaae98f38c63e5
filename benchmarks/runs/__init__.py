"""The grid: methods are trained and evaluated, cell by cell, and their records scored."""
