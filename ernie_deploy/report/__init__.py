"""What a journal says: terminal table, one-file HTML, Markdown, CSV and JUnit; reads no server and no clock."""
