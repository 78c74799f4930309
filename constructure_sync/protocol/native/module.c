/* The table of the extension module, and what it holds on to. */

#include "module.h"

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}

static PyMethodDef functions[] = {
    FUNCTION(close_short),
    {NULL, NULL, 0, NULL},
};

static PyObject *attribute_of_module(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL)
        return NULL;
    PyObject *attribute = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return attribute;
}

static int fill_state(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->closed_part = attribute_of_module("constructure_sync.protocol.closed_part", "ClosedPart");
    state->bounds = PyUnicode_InternFromString("_bounds");
    state->max_depth = PyUnicode_InternFromString("max_depth");
    state->max_any_depth = PyUnicode_InternFromString("max_any_depth");
    state->max_delete_ranges = PyUnicode_InternFromString("max_delete_ranges");
    return PyErr_Occurred() ? -1 : 0;
}

/* Every object of the state, so that none is forgotten by one of the two below. */
#define FOR_EACH_OBJECT(DO)                                                                                           \
    DO(closed_part) DO(bounds) DO(max_depth) DO(max_any_depth) DO(max_delete_ranges)

static int traverse_state(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
#define VISIT(object) Py_VISIT(state->object);
    FOR_EACH_OBJECT(VISIT)
    return 0;
}

static int clear_state(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define CLEAR(object) Py_CLEAR(state->object);
    FOR_EACH_OBJECT(CLEAR)
    return 0;
}

static void free_state(void *module)
{
    clear_state(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill_state},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "constructure_sync.protocol._native",
    .m_doc = "The readers of updates, compiled.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse_state,
    .m_clear = clear_state,
    .m_free = free_state,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
