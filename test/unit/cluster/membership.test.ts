import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isListedAsLost } from '../../../lib/cluster/membership.ts';

test('a node is lost only where the list says so of exactly that node', () => {
  // crm_node --list of Pacemaker 2.1.5
  const list = '1 node1 member\n2 node2 lost\n3 node22 member\n4  lost\n';
  assert.equal(isListedAsLost(list, 'node1'), false);
  assert.equal(isListedAsLost(list, 'node2'), true);
  assert.equal(isListedAsLost(list, 'node22'), false);
  assert.equal(isListedAsLost(list, 'node'), false);
  assert.equal(isListedAsLost('', 'node2'), false);
});
