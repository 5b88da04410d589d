"""From the files of a hospital to the crops that training sees."""
