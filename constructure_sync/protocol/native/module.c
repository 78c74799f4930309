/* The table of the extension module, and what it holds on to. */

#include "module.h"

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}

static PyMethodDef functions[] = {
    FUNCTION(close_short),
    FUNCTION(read_update),
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
    const char *reader = "constructure_sync.protocol.update_reader";
    state->struct_type = attribute_of_module(reader, "Struct");
    state->section = attribute_of_module(reader, "Section");
    state->parsed_update = attribute_of_module(reader, "ParsedUpdate");
    state->default_limits = attribute_of_module(reader, "DEFAULT_LIMITS");
    state->read_update = attribute_of_module(reader, "read_update");
    state->check_json = attribute_of_module(reader, "check_json");
    return PyErr_Occurred() ? -1 : 0;
}

/* Every object of the state, so that none is forgotten by one of the two below. */
#define FOR_EACH_OBJECT(DO)                                                                                           \
    DO(closed_part) DO(bounds) DO(max_depth) DO(max_any_depth) DO(max_delete_ranges) DO(struct_type) DO(section)       \
    DO(parsed_update) DO(default_limits) DO(read_update) DO(check_json) DO(limits_seen)

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
