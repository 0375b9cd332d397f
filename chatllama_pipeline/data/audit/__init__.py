"""The page that shows what a person's data is made of."""

AUDIT_PAGE = "report.html"
