"""Any expression model, ours or not: taken in (`mien.wrap`), scored, compared and audited on the faces of a store."""
