"""WHAT: one file a loop; a body reads a snapshot, decides with a pure function, acts, returns counts."""
