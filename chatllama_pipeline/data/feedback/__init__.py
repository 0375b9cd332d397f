"""What people said of replies: thumbs, comparisons and edits, and the files that bring them."""
