// A function without a body needs an assembly file in its package, even an empty one.
