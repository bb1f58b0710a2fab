"""Studies: techniques measured against one another on one data set, and what their figures say.

Two halves. One does the work: it searches, trains, asks and measures on a base model. The other is pure and needs no
model: from the cells and their answered rows to the leaderboard (board.py), the findings (findings.py) and the reports
(report.py).
"""
