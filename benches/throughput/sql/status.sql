-- How a user stands towards another: the pair's request, and the user's block.
\set user random(1, :users)
\set other 1 + (:user - 1 + random(1, :users - 1)) % :users
SELECT request.id, request.from_user_id, request.state, request.created, request.rejected, block.created
FROM (VALUES (1)) AS one
LEFT JOIN connection_requests AS request
    ON low_user_id = LEAST(:user::bigint, :other::bigint) AND high_user_id = GREATEST(:user::bigint, :other::bigint)
LEFT JOIN blocks AS block ON block.user_id = :user AND block.other_user_id = :other;
