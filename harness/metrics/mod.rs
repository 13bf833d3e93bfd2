//! Training-free metrics from the co-occurrence counts of tokens and classes.
