//! Ids, units, states and the closed domain error of Fairmazon.
