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

/* Objects of Python that the functions need, found once when the module is imported. Owned by the module. */
typedef struct {
    PyObject *closed_part;       /* the class ClosedPart, a named tuple */
    PyObject *bounds;            /* the names of attributes */
    PyObject *max_depth;
    PyObject *max_any_depth;
    PyObject *max_delete_ranges;
} State;

PyObject *close_short(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

#endif
