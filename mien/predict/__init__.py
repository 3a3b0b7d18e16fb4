"""Photos and videos -> faces, expressions, action units and explanations, as a table and as pictures."""
