/* An extension module without Python functions: `spkver.native` calls the kernels through ctypes. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernels.h"

EXPORT int version(void)
{
    return VERSION;
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
    return PyModule_Create(&definition);
}
