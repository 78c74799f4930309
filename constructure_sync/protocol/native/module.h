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

/* Limits of one update, see `update_reader.UpdateLimits`; those that reading alone needs. */
typedef struct {
    uint64_t max_structs, max_clients, max_delete_ranges, max_subdocs, max_any_depth;
} ReadingLimits;

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
    PyObject *read_update; /* the function in Python */
    PyObject *check_json;
    PyObject *limits_seen; /* by `read_update`, the last ones; NULL at first */
    ReadingLimits limits;  /* what they hold */
} State;

PyObject *close_short(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *read_update(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

#endif
