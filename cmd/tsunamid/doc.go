// Tsunamid is Tsunami's server: the embedded broker, the scheduler, the guard and
// the console in one process, or the parts that --run picks.
//
// It starts what is to be there first and stops in the opposite order: the
// broker, the streams in it, then the parts. The first part that fails stops
// all, so a supervisor sees one process that is either whole or gone.
package main
