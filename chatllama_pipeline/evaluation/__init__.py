"""What came before against what was made: replies, judging, figures, the gate, the report."""
