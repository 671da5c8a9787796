"""What a number is: records with fields, verdicts, intervals, DD-Ranking's scores."""
