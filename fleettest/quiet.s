// This file is empty so that functions without a body, which are linked by
// name, may be declared.
