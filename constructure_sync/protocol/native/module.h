/* The extension module `constructure_sync.protocol._native`: what its files share.
 *
 * It holds, compiled, functions that also exist in Python, under the same names and with the same results;
 * `protocol/readers.py` picks which are used. A function lies in the file named after its Python module and is declared
 * here and listed in the table in `module.c`.
 */

#ifndef CONSTRUCTURE_MODULE_H
#define CONSTRUCTURE_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

/* Limits of one update, see `update_reader.UpdateLimits`. */
typedef struct {
    uint64_t max_structs, max_clients, max_delete_ranges, max_subdocs, max_depth, max_any_depth;
} Limits;

/* Objects of Python that the functions need, found once when the module is imported. Owned by the module. */
typedef struct {
    PyObject *closed_part;       /* the class ClosedPart, a named tuple */
    PyObject *bounds;            /* the names of attributes */
    PyObject *max_depth;
    PyObject *max_any_depth;
    PyObject *max_delete_ranges;
    PyObject *struct_type; /* the named tuples of `update_reader` */
    PyObject *section;
    PyObject *parsed_update;
    PyObject *default_limits;
    PyObject *read_update; /* functions in Python, and a class */
    PyObject *check_json;
    PyObject *write_update;
    PyObject *nothing;
    PyObject *id_ranges;
    PyObject *limits_seen; /* by `take_limits`, the last ones; NULL at first */
    Limits limits;  /* what they hold */
} State;

/* Hold the limits in the state; false: they are beyond what is followed here, or none at all. */
bool take_limits(State *state, PyObject *limits);

PyObject *close_short(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *close_whole(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *read_update(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

#endif
