//! Tests of the rules of wire.md §4.
