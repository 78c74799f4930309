"""Moving in: documents that another Yjs server stored become courses of this one."""
