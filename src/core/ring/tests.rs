//! Rings piece by piece, then at random against a plain vector.
